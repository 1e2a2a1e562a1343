-- Takes a lease that nobody has, or extends one's own.
-- Begins with a DEL: a full Redis does not stop a script that has written.
--
-- KEYS
--   1 void              never exists
--   2 lease_key         string
-- ARGV
--   1 token             of the caller
--   2 lease             in ms
-- Returns
--   {DONE, 2}           the caller had the lease, and has it for `lease` from now on
--   {DONE, 1}           nobody had it: the caller has it now
--   {DONE, 0}           somebody else has it: nothing was done
redis.call('DEL', void)
local holder = redis.call('GET', lease_key)
if holder and holder ~= token then
  return {DONE, 0}
end
redis.call('SET', lease_key, token, 'PX', lease)
return {DONE, holder and 2 or 1}
