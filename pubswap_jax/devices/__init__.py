"""Runs on several devices and hosts: the mesh, the shardings, and communication between processes."""
