-- Store staged rewards; -1 stands for null.
UPDATE assignments
SET outcome = staged.outcome, reward = nullif(staged.reward, -1)
FROM staged_rewards AS staged
WHERE assignments.ctid = place
