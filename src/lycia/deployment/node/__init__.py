"""A node: an agent that talks to the coordinator, and a trainer that has the data and no credentials."""
