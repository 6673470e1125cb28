"""Human labels of responses: what is reviewed, who reviews it, and how far reviewers agree."""
