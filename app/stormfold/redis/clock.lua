-- Reads how far event time is and what is open, at one moment of one state version. Writes nothing.
--
-- KEYS
--   1 state_version     hash
--   2 marks             hash
--   3 due               zset
--   4 open_since        hash
-- ARGV
--   1 number            of the state version that the caller knows
-- Returns
--   {DONE, horizon or '', open groups, first open bucket or ''}
--   {STALE}             another state version, or none
if redis.call('HGET', state_version, NUMBER) ~= number then
  return {STALE}
end
return {DONE, redis.call('HGET', marks, HORIZON) or '', redis.call('ZCARD', due), first_open(open_since)}
