-- Opens a state version at given positions, if the version that the caller knows is still current: the first caller wins.
-- Begins with a DEL, so that it also runs on a full Redis.
--
-- KEYS
--   1 state_version     hash
--   2 void              never exists
--   3 positions         hash of the new version
--   4 pending_windows   hash of the new version
-- ARGV
--   1 known             number of the version that the caller knows, '' if none
--   2 fields            of the new version: map of strings
--   3 starts            fields of its positions: map of strings
-- Returns
--   1                   opened
--   0                   another version is current: nothing was done
redis.call('DEL', void)
if (redis.call('HGET', state_version, NUMBER) or '') ~= known then
  return 0
end
redis.call('DEL', positions, pending_windows)
for field, value in pairs(starts) do
  redis.call('HSET', positions, field, value)
end
redis.call('DEL', state_version)
for field, value in pairs(fields) do
  redis.call('HSET', state_version, field, value)
end
return 1
