-- Contexts and propensities of locked assignments. Run this before their rewards are stored, which changes their places.
SELECT number, context, propensity
FROM learning
JOIN assignments ON assignments.ctid = place
