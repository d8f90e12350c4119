"""What `make bench` measures. Each file yields JSON lines; what matters are the ratios within one run."""
