"""A V2A-Mapper: its checkpoint to a bundle, and the weights of others into a checkpoint."""
