"""The mathematics: losses, the swap, averaging, one client's update, and the federated algorithms made of them."""
