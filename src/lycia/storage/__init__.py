"""What outlives a process: blobs, the folder of a simulated run, and the coordinator's database."""
