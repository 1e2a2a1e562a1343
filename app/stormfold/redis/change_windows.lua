-- Goes on in the next epoch, under the windows that were asked for, if nothing is open and all is folded that was in the
-- log when they were asked for: what was published under the old ones is behind then, also after a rebuild.
-- The watermark stays where it is: it is the floor of the new epoch, behind which everything was counted.
-- Begins with a DEL, so that a full Redis does not keep its windows.
--
-- KEYS  1 epoch (hash)
--       2 next   3 positions   4 origins   5 marks (hashes)   6 open (zset) of the epoch that stands
--       7 positions   8 origins   9 marks (hashes)   10 void (never exists) of the next one
-- ARGV  1 number that stands
-- Returns 1 the next epoch stands, 0 another one stood, nothing was asked for, or it is not drained
local epoch, next_windows, positions, marks, open = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[6]
local new_marks, void = KEYS[9], KEYS[10]
local number = ARGV[1]

local function hash(key)
  local result, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    result[flat[i]] = flat[i + 1]
  end
  return result
end

local function whole(value)
  return string.format('%.0f', value)
end

redis.call('DEL', void)
if redis.call('HGET', epoch, 'number') ~= number or redis.call('ZCARD', open) > 0 then
  return 0
end
local asked = hash(next_windows)
if not asked.gap then
  return 0
end
local reached = hash(positions)
for field, stop in pairs(asked) do
  if string.find(field, '^%d+$') and tonumber(reached[field] or '0') < tonumber(stop) then
    return 0
  end
end

local old, seen = hash(epoch), hash(marks)
local floor = math.max(
  seen.h and tonumber(seen.h) - tonumber(old.grace) or -math.huge,
  old.since and tonumber(old.since) or -math.huge,
  old.closed and tonumber(old.closed) or -math.huge
)
for i = 3, 5 do
  redis.call('DEL', KEYS[i + 4])
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 4])
  end
end
-- Marks promise that nothing comes more than the grace before them: under a smaller one they promise less.
local less = tonumber(old.grace) - tonumber(asked.grace)
for field, time in pairs(seen) do
  if less > 0 and string.find(field, ':', 1, true) then
    redis.call('HSET', new_marks, field, whole(math.max(0, tonumber(time) - less)))
  end
end
redis.call('DEL', epoch, next_windows)
redis.call('HSET', epoch, 'number', whole(tonumber(number) + 1), 'partitions', old.partitions,
  'gap', asked.gap, 'grace', asked.grace, 'slice', asked.slice, 'by', asked.by)
if floor > -math.huge then
  redis.call('HSET', epoch, 'since', whole(floor))
  redis.call('HSET', new_marks, 'h', whole(floor + tonumber(asked.grace)))
end
return 1
