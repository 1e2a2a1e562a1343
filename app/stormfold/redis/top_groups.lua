-- Finds the largest of a stretch of open groups. Writes nothing; what it costs is bounded by the stretch.
--
-- KEYS  1 epoch (hash)   2 open (zset)
-- ARGV  1 number of the epoch   2 prefix of group keys   3 prefix of bucket keys
--       4 rank in `open` of the stretch's first group   5 how many   6 most groups to return   7... groups to look at, too
-- Returns {0, open groups, {group, meta, {start, aggregate, fields, ...}}, ...}   the largest first
--         {3}   another epoch, or none: reload
local epoch, open = KEYS[1], KEYS[2]
local number, group_prefix, bucket_prefix = ARGV[1], ARGV[2], ARGV[3]
local from, count, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

if redis.call('HGET', epoch, 'number') ~= number then
  return {3}
end

local function aggregate(group, start)
  return redis.call('HGET', bucket_prefix .. group .. ':' .. start, 'a')
end

local groups = redis.call('ZRANGE', open, from, from + count - 1)
for i = 7, #ARGV do
  groups[#groups + 1] = ARGV[i]
end
local sizes, found = {}, {}
for _, group in ipairs(groups) do
  if not sizes[group] then
    sizes[group] = 0
    for _, field in ipairs(redis.call('HKEYS', group_prefix .. group)) do
      local bucket = field ~= 'm' and aggregate(group, field)
      if bucket then
        sizes[group] = sizes[group] + struct.unpack('>I4', bucket)
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

local result = {0, redis.call('ZCARD', open)}
for i = 1, math.min(most, #found) do
  local group, buckets = found[i], {}
  for _, field in ipairs(redis.call('HKEYS', group_prefix .. group)) do
    if field ~= 'm' then
      buckets[#buckets + 1] = field
      buckets[#buckets + 1] = aggregate(group, field)
      buckets[#buckets + 1] = redis.call('HLEN', bucket_prefix .. group .. ':' .. field)
    end
  end
  result[#result + 1] = {group, redis.call('HGET', group_prefix .. group, 'm'), buckets}
end
return result
