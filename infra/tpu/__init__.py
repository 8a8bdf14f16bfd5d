"""Training on slices of TPUs: the container, and the job that runs it on GKE."""
