"""The rules, one a file; the code's hundreds are structure, state, behaviour, steps and ranks."""

from collections.abc import Mapping
from types import ModuleType

from xhat.doctor.rule import Rule
from xhat.doctor.rules import bn106_momentum_reversed

_MODULES: tuple[ModuleType, ...] = (bn106_momentum_reversed,)

# In the order in which they are applied.
RULES: Mapping[str, Rule] = {module.RULE.code: module.RULE for module in _MODULES}
