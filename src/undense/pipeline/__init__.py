"""From a recipe to a run folder, stage by stage; each stage is skipped when its result is there."""
