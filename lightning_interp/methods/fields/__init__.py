"""What units see of an image, by occlusion (Zhou et al. 2015)."""
