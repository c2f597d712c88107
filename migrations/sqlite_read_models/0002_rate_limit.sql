-- A webhook may have a rate of its own. No event of the time before says one, so the rows that are there are true.
ALTER TABLE webhook ADD COLUMN rate_limit_per_s INTEGER;
