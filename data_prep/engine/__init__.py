"""Running all tracks: in this process, in worker processes, on a Ray cluster, or as the parts of an array job."""
