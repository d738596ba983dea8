"""How to time one model file on one device. Knows files, runtimes and devices, no architectures."""
