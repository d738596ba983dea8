"""Put a network to work: detection, face identification, person re-identification (BP-NAS, transfer tasks)."""
