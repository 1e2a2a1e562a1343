-- Opens the next state version under the pending windows, if no group is open and every record before the ends stored
-- with the request is folded. So a rebuild never reads records again that were published under the old windows.
-- The watermark stays, and the new version counts no alert before it.
-- Begins with a DEL, so that a full Redis can change its windows.
--
-- KEYS
--   1 state_version     hash
--   2 void              never exists
--   3 pending_windows   hash
--   4 due               zset
--   5 positions         hash
--   6 source_positions  hash
--   7 marks             hash
--   8 new_positions     hash of the next version
--   9 new_source_positions  hash of the next version
--  10 new_marks         hash of the next version
-- ARGV
--   1 number            of the version that the caller knows
--   2 committed         msgpack: keyed partition to the offset that fold has committed to Kafka
--   3 closed            closed_before that fold has committed (ms), or ''
-- Returns
--   1                   the next version is current
--   0                   another one is current, no windows are pending, or something is open or not folded; also if
--                       Redis went back and is behind what was committed: what was closed since would be counted again
local function hash(key)
  local result, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    result[flat[i]] = flat[i + 1]
  end
  return result
end

local function whole(value)
  return string.format('%d', value)
end

redis.call('DEL', void)
if redis.call('HGET', state_version, NUMBER) ~= number or redis.call('ZCARD', due) > 0 then
  return 0
end
local requested = hash(pending_windows)
if not requested[GAP] then
  return 0
end
local folded = hash(positions)
for field, stop in pairs(requested) do
  if string.find(field, '^%d+$') and tonumber(folded[field] or '0') < tonumber(stop) then
    return 0
  end
end
for field, offset in pairs(committed) do
  if tonumber(folded[field] or '0') < tonumber(offset) then
    return 0
  end
end

local old, old_marks = hash(state_version), hash(marks)
local counted_before = math.max(
  tonumber(closed) or -math.huge,
  old_marks[HORIZON] and tonumber(old_marks[HORIZON]) - tonumber(old[GRACE]) or -math.huge,
  old[WINDOWS_SINCE] and tonumber(old[WINDOWS_SINCE]) or -math.huge,
  old[CLOSED_BEFORE] and tonumber(old[CLOSED_BEFORE]) or -math.huge
)
local moved = {[positions] = new_positions, [source_positions] = new_source_positions, [marks] = new_marks}
for before, after in pairs(moved) do
  redis.call('DEL', after)
  if redis.call('EXISTS', before) == 1 then
    redis.call('RENAME', before, after)
  end
end
-- A mark promises that no later alert is more than the grace before it: under a smaller grace the mark must be earlier.
local less = tonumber(old[GRACE]) - tonumber(requested[GRACE])
for field, time in pairs(old_marks) do
  if less > 0 and string.find(field, SEPARATOR, 1, true) then
    redis.call('HSET', new_marks, field, whole(math.max(0, tonumber(time) - less)))
  end
end
redis.call('DEL', state_version, pending_windows)
redis.call('HSET', state_version, NUMBER, whole(tonumber(number) + 1), PARTITIONS, old[PARTITIONS],
  GAP, requested[GAP], GRACE, requested[GRACE], SLICE, requested[SLICE], REQUESTED_AT, requested[REQUESTED_AT])
if counted_before > -math.huge then
  redis.call('HSET', state_version, WINDOWS_SINCE, whole(counted_before))
  redis.call('HSET', new_marks, HORIZON, whole(counted_before + tonumber(requested[GRACE])))
end
return 1
