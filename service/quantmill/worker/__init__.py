"""Runs one attempt at a job: the supervisor holds the lease, the runner (a child process) does the work."""
