"""What the mount tests stand on: an engine, a mount, a proxy between the two, trees."""
