"""What a model family learns with: one learner for each family that can be trained."""
