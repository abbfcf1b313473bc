"""What moves the regime (drivers), what their states say (mapper) and what a position makes of it (levers). Pure."""
