-- What does not agree, by each proof that the history can make; a proof that holds has a row with 0.
SELECT
    toDate({until:DateTime64(3, 'UTC')}) AS period,
    proof,
    program_id,
    sum(found) AS discrepancies,
    any(example) AS example
FROM (
    SELECT 'entries without gaps' AS proof, program_id, countIf(NOT gapless) AS found, anyIf(member_id, NOT gapless) AS example
    FROM reconciliation GROUP BY program_id
    UNION ALL
    SELECT 'entries add up to balances' AS proof, program_id, countIf(NOT balanced) AS found, anyIf(member_id, NOT balanced) AS example
    FROM reconciliation GROUP BY program_id
    UNION ALL
    SELECT 'chain of hashes' AS proof, program_id, countIf(NOT chained) AS found, anyIf(member_id, NOT chained) AS example
    FROM hash_chain GROUP BY program_id
    UNION ALL
    SELECT 'zero in sum' AS proof, program_id, countIf(NOT is_zero) AS found, '' AS example FROM zero_sum GROUP BY program_id
    UNION ALL
    SELECT
        'mirror without gaps' AS proof, '' AS program_id, countIf(kind = 'GAP') AS found,
        anyIf(concat(topic, '[', toString(partition), ']@', toString(from_offset), '-', toString(to_offset)), kind = 'GAP') AS example
    FROM mirror_gaps
    UNION ALL
    SELECT concat('all copies: ', toString(store)) AS proof, toString(program_id) AS program_id, countIf(cause != 'lag') AS found, anyIf(member_id, cause != 'lag') AS example
    FROM agreement_differences FINAL
    WHERE run_id IN (SELECT argMax(run_id, ended_at) FROM agreement_runs FINAL WHERE program_id = '')
    GROUP BY store, program_id
)
GROUP BY proof, program_id
