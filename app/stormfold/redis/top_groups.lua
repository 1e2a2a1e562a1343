-- Finds the largest groups in a range of the open groups. Writes nothing; its cost is bounded by the range.
--
-- KEYS
--   1 state_version     hash
--   2 marks             hash
--   3 open              zset
-- ARGV
--   1 number            of the state version that the caller knows
--   2 group_prefix      prefix of group keys
--   3 bucket_prefix     prefix of bucket keys
--   4 first             rank in `open` of the first group of the range
--   5 count             groups in the range
--   6 limit             most groups to return
--   7 by_members        whether the largest are those with the most members in one bucket, not the most alerts
--   8 others            {group, ...}: groups to compare with those of the range
-- Returns
--   {DONE, horizon or '', open groups, {group, meta, {bucket start, summary, ...}}, ...}, the largest first
--   {STALE}             another state version, or none
if redis.call('HGET', state_version, NUMBER) ~= number then
  return {STALE}
end

local function summary(group, start)
  return redis.call('HGET', bucket_prefix .. group .. SEPARATOR .. start, SUMMARY_FIELD)
end

local groups = redis.call('ZRANGE', open, first, first + count - 1)
for _, group in ipairs(others) do
  groups[#groups + 1] = group
end
local sizes, found = {}, {}
for _, group in ipairs(groups) do
  if not sizes[group] then
    sizes[group] = 0
    for _, field in ipairs(redis.call('HKEYS', group_prefix .. group)) do
      local bucket = field ~= META_FIELD and summary(group, field)
      if bucket then
        if by_members then
          sizes[group] = math.max(sizes[group], (select(7, struct.unpack(SUMMARY, bucket))))
        else
          sizes[group] = sizes[group] + struct.unpack(SUMMARY, bucket)
        end
      end
    end
    if sizes[group] > 0 then
      found[#found + 1] = group
    end
  end
end
table.sort(found, function(a, b)
  return sizes[a] > sizes[b] or (sizes[a] == sizes[b] and a < b)
end)

local result = {DONE, redis.call('HGET', marks, HORIZON) or '', redis.call('ZCARD', open)}
for i = 1, math.min(limit, #found) do
  local group, buckets = found[i], {}
  for _, field in ipairs(redis.call('HKEYS', group_prefix .. group)) do
    if field ~= META_FIELD then
      buckets[#buckets + 1] = field
      buckets[#buckets + 1] = summary(group, field)
    end
  end
  result[#result + 1] = {group, redis.call('HGET', group_prefix .. group, META_FIELD), buckets}
end
return result
