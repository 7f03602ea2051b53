"""A folder with everything that an installation without a way out needs, and the check that it is still all there."""
