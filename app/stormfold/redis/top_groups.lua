-- Finds the largest groups in a range of the open groups. Writes nothing; its cost is bounded by the range.
--
-- KEYS
--   1 state_version     hash
--   2 marks             hash
--   3 due               zset
-- ARGV
--   1 number            of the state version that the caller knows
--   2 group_prefix      prefix of group keys
--   3 bucket_prefix     prefix of bucket keys
--   4 first             rank in `due` of the first group of the range
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

-- Meta of a group, and {bucket start, summary, ...}; nothing if it is not open.
local function read_group(name)
  local value, buckets = redis.call('GET', group_prefix .. name), {}
  if not value then
    return nil, buckets
  end
  local meta, begin = read_meta(value)
  local examples = read_examples(value, begin)
  for at = 1, #examples, 2 do
    local summary = redis.call('HGET', bucket_prefix .. name .. SEPARATOR .. examples[at], SUMMARY_FIELD)
    if summary then
      buckets[#buckets + 1] = examples[at]
      buckets[#buckets + 1] = summary
    end
  end
  return meta, buckets
end

local groups = redis.call('ZRANGE', due, first, first + count - 1)
for _, group in ipairs(others) do
  groups[#groups + 1] = group
end
local sizes, found, metas, buckets = {}, {}, {}, {}
for _, group in ipairs(groups) do
  if not sizes[group] then
    sizes[group], metas[group], buckets[group] = 0, read_group(group)
    for at = 2, #buckets[group], 2 do
      local summary = buckets[group][at]
      if by_members then
        sizes[group] = math.max(sizes[group], (select(7, struct.unpack(SUMMARY, summary))))
      else
        sizes[group] = sizes[group] + struct.unpack(SUMMARY, summary)
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

local result = {DONE, redis.call('HGET', marks, HORIZON) or '', redis.call('ZCARD', due)}
for i = 1, math.min(limit, #found) do
  local group = found[i]
  result[#result + 1] = {group, metas[group], buckets[group]}
end
return result
