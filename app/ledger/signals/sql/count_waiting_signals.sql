-- Count the signals in time that waited for the exposure of these assignments, by experiment and name.
SELECT stored.experiment_id, stored.signal, count(*)
FROM exposing
JOIN signals AS stored ON stored.assignment_id = exposing.id
WHERE stored.at BETWEEN exposing.since AND exposing.deadline
GROUP BY stored.experiment_id, stored.signal
