"""Records a model's data flow by running it on example inputs."""
