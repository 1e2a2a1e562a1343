-- Opens an epoch, if the one that the caller knows still stands: the first caller wins.
-- Begins with a DEL, so that a full Redis can still be started anew.
--
-- KEYS  1 epoch (hash)   2 positions of the new epoch (hash)   3 void (never exists)
-- ARGV  1 number that stands, or '' if none   2 fields of the epoch (msgpack map of strings)
--       3 positions (msgpack map of strings)
-- Returns 1 opened, 0 another one stands
local epoch, positions, void = KEYS[1], KEYS[2], KEYS[3]

redis.call('DEL', void)
if (redis.call('HGET', epoch, 'number') or '') ~= ARGV[1] then
  return 0
end
redis.call('DEL', epoch, positions)
for field, value in pairs(cmsgpack.unpack(ARGV[2])) do
  redis.call('HSET', epoch, field, value)
end
for field, value in pairs(cmsgpack.unpack(ARGV[3])) do
  redis.call('HSET', positions, field, value)
end
return 1
