"""Network Dissection (Bau et al., CVPR 2017): which unit detects which concept."""
