"""What happens at times that an operator sets: cadences, jobs, the process that runs them, and the record of every run."""
