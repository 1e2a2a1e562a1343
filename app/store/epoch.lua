-- Opens an epoch, if the one that the caller knows still stands: the first caller wins.
-- Either from given positions, or as the continuation of a drained one under other settings.
-- Begins with a DEL, so that a full Redis can still be started anew.
--
-- KEYS  1 epoch (hash)   2 void (never exists)
--       3 positions   4 origins   5 marks (hashes) of the new epoch
--       6 positions   7 origins   8 marks (hashes)   9 open (zset) of the epoch that stands; only to continue it
-- ARGV  1 number that stands, or '' if none   2 fields of the epoch (msgpack map of strings)
--       3 positions (msgpack map of strings), or '' to continue
-- Returns 1 opened, 0 another one stands, or the one to be continued has open groups
local epoch, void = KEYS[1], KEYS[2]
local before, fields, starts = ARGV[1], ARGV[2], ARGV[3]

redis.call('DEL', void)
if (redis.call('HGET', epoch, 'number') or '') ~= before then
  return 0
end
if starts == '' then
  if redis.call('ZCARD', KEYS[9]) > 0 then
    return 0
  end
  for i = 3, 5 do
    if redis.call('EXISTS', KEYS[i + 3]) == 1 then
      redis.call('RENAME', KEYS[i + 3], KEYS[i])
    end
  end
else
  redis.call('DEL', KEYS[3])
  for field, value in pairs(cmsgpack.unpack(starts)) do
    redis.call('HSET', KEYS[3], field, value)
  end
end
redis.call('DEL', epoch)
for field, value in pairs(cmsgpack.unpack(fields)) do
  redis.call('HSET', epoch, field, value)
end
return 1
