-- Contexts and propensities of locked assignments. Before their rewards are stored, which gives them another place.
SELECT number, context, propensity
FROM learning
JOIN assignments ON assignments.ctid = place
