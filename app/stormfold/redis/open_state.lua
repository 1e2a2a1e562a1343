-- Opens an epoch from given positions, if the one that the caller knows still stands: the first caller wins.
-- Begins with a DEL, so that a full Redis can still be started anew.
--
-- KEYS  1 epoch (hash)   2 void (never exists)   3 positions   4 next (hashes) of the new epoch
-- ARGV  1 number that stands, or '' if none   2 fields of the epoch   3 positions (msgpack maps of strings)
-- Returns 1 opened, 0 another one stands
local epoch, void, positions, asked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local before, fields, starts = ARGV[1], ARGV[2], ARGV[3]

redis.call('DEL', void)
if (redis.call('HGET', epoch, 'number') or '') ~= before then
  return 0
end
redis.call('DEL', positions, asked)
for field, value in pairs(cmsgpack.unpack(starts)) do
  redis.call('HSET', positions, field, value)
end
redis.call('DEL', epoch)
for field, value in pairs(cmsgpack.unpack(fields)) do
  redis.call('HSET', epoch, field, value)
end
return 1
