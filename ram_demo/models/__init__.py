"""What is loaded: model files, the frozen proposal, aligners, and the check that they share a vocabulary."""
