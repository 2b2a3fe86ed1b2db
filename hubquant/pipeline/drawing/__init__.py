"""What a recipe of a diffusion model does: draw pictures to calibrate, and to measure."""
