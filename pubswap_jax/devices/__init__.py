"""Several devices and hosts: the mesh, its shardings, and communication between processes."""
