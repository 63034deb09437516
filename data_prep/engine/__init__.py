"""All tracks through workers: here, in processes, on a Ray cluster, or as array jobs."""
