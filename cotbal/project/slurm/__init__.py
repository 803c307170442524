"""The runs of a project as jobs of a Slurm cluster, submitted with submitit."""
