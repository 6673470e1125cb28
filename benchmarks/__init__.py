"""What the README's figures come from: each with its floor, measured in the same run."""
