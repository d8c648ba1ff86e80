"""What the method runs on, behind one small protocol."""
