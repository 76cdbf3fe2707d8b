"""The scripts that people type: what a study folder says, computed by `cfamc_ray.study` and drawn by `.figures`."""
