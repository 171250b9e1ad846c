"""Many devices and many hosts: the mesh, and what processes exchange."""
