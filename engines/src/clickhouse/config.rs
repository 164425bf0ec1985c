//! The engine's own settings: pools and caches for one machine shared with everything else.

/// ClickHouse's defaults are for a server of its own (16 merge threads, 128 schedule threads, caches
/// of gigabytes).
pub fn xml(cores: usize) -> String {
    let merges = cores.clamp(2, 8);
    format!(
        "<clickhouse>
  <!-- A failed query is its client's affair, not thirty lines in the log. -->
  <logger><console>1</console><levels><executeQuery>none</executeQuery></levels></logger>
  <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
  <mark_cache_size>134217728</mark_cache_size>
  <index_mark_cache_size>16777216</index_mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <background_pool_size>{merges}</background_pool_size>
  <background_merges_mutations_concurrency_ratio>1</background_merges_mutations_concurrency_ratio>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <merge_tree>
    <!-- They must not exceed the pool. -->
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
  <!-- A cluster of this engine alone: what is asked of distributed tables can be tried on it. Nothing listens there; the
       port says that the shard is here. -->
  <tcp_port>9000</tcp_port>
  <remote_servers><here><shard><internal_replication>true</internal_replication>
    <replica><host>127.0.0.1</host><port>9000</port></replica>
  </shard></here></remote_servers>
</clickhouse>
"
    )
}
