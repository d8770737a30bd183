"""Words in several languages: sentences that remember how they were made, and catalogues that translate them.

English is written in the code; ``say`` puts numbers into a sentence and remembers both. A catalogue maps the
English sentence, with its ``{placeholders}``, to the other language's.
"""

from xhat.lang._catalogue import LANGUAGES, Translate, catalogue, needs_translation, translator
from xhat.lang._phrase import Name, Phrase, listed, say, template_of, with_names

__all__ = [
    "LANGUAGES",
    "Name",
    "Phrase",
    "Translate",
    "catalogue",
    "listed",
    "needs_translation",
    "say",
    "template_of",
    "translator",
    "with_names",
]
