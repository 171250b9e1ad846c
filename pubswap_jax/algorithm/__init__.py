"""The mathematics: losses, the swap, averaging, one client's update and the federated algorithm made of them."""
