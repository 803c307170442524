"""The equality table: what every way of training moves the parameters to, against one plain loop."""
