"""What is being asked: definitions, their life cycle and what may change when."""
