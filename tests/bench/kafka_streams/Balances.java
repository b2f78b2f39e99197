// Kafka Streams: the same work on its Processor API, with a RocksDB store and exactly_once_v2.
// Usage: Balances BOOTSTRAP PREFIX FOLDER THREADS

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public final class Balances {
    private static final int RECENT_IDS = 8;
    private static final int HEADER_BYTES = 5;
    private static final Schema MOVEMENT = parse("Movement",
        "{'name':'transaction_id','type':'string'},{'name':'member_id','type':'string'},"
            + "{'name':'kind','type':{'type':'enum','name':'Kind','symbols':['EARN','REDEEM']}},"
            + "{'name':'points','type':'long'},{'name':'occurred_at_ms','type':'long'},{'name':'source_system','type':'string'}");
    private static final Schema BALANCE = parse("Balance",
        "{'name':'points','type':'long'},{'name':'sequence','type':'long'},{'name':'recent_ids','type':{'type':'array','items':'string'}}");
    private static final Schema CHANGED = parse("BalanceChanged",
        "{'name':'member_id','type':'string'},{'name':'transaction_id','type':'string'},"
            + "{'name':'result','type':{'type':'enum','name':'Result','symbols':['APPLIED','REFUSED','REPLAYED']}},"
            + "{'name':'points_delta','type':'long'},{'name':'points_after','type':'long'},"
            + "{'name':'sequence','type':'long'},{'name':'occurred_at_ms','type':'long'}");

    private static Schema parse(String name, String fields) {
        return new Schema.Parser().parse(("{'type':'record','name':'" + name + "','fields':[" + fields + "]}").replace('\'', '"'));
    }

    /** Confluent's wire format: a zero byte, a schema id, Avro binary. Not shared between threads. */
    private static final class Codec {
        private final GenericDatumReader<GenericRecord> reader;
        private final GenericDatumWriter<GenericRecord> writer;
        private final byte[] header;
        private final ByteArrayOutputStream out = new ByteArrayOutputStream(256);
        private BinaryDecoder decoder;
        private BinaryEncoder encoder;

        Codec(Schema schema, int id) {
            reader = new GenericDatumReader<>(schema);
            writer = new GenericDatumWriter<>(schema);
            header = ByteBuffer.allocate(HEADER_BYTES).put((byte) 0).putInt(id).array();
        }

        GenericRecord decode(byte[] data) {
            try {
                decoder = DecoderFactory.get().binaryDecoder(data, HEADER_BYTES, data.length - HEADER_BYTES, decoder);
                return reader.read(null, decoder);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        byte[] encode(GenericRecord record) {
            try {
                out.reset();
                out.write(header);
                encoder = EncoderFactory.get().binaryEncoder(out, encoder);
                writer.write(record, encoder);
                encoder.flush();
                return out.toByteArray();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    private static final class KeepBalances implements Processor<byte[], byte[], byte[], byte[]> {
        private final Codec movements = new Codec(MOVEMENT, 1);
        private final Codec balances = new Codec(BALANCE, 2);
        private final Codec changes = new Codec(CHANGED, 3);
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> store;

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            store = context.getStateStore("balances");
        }

        @Override
        @SuppressWarnings("unchecked")
        public void process(Record<byte[], byte[]> input) {
            GenericRecord movement = movements.decode(input.value());
            byte[] stored = store.get(input.key());
            long points = 0;
            long sequence = 0;
            List<CharSequence> recent = new ArrayList<>(RECENT_IDS + 1);
            if (stored != null) {
                GenericRecord balance = balances.decode(stored);
                points = (Long) balance.get("points");
                sequence = (Long) balance.get("sequence");
                recent.addAll((List<CharSequence>) balance.get("recent_ids"));
            }
            CharSequence identity = (CharSequence) movement.get("transaction_id");
            String result = "APPLIED";
            long delta = 0;
            if (recent.contains(identity)) {
                result = "REPLAYED";
            } else {
                delta = (Long) movement.get("points");
                if (!"EARN".equals(movement.get("kind").toString())) {
                    delta = -delta;
                }
                if (points + delta < 0) {
                    delta = 0;
                    result = "REFUSED";
                }
                points += delta;
                sequence += 1;
                recent.add(identity);
                GenericRecord after = new GenericData.Record(BALANCE);
                after.put("points", points);
                after.put("sequence", sequence);
                after.put("recent_ids", recent.subList(Math.max(0, recent.size() - RECENT_IDS), recent.size()));
                store.put(input.key(), balances.encode(after));
            }
            GenericRecord changed = new GenericData.Record(CHANGED);
            changed.put("member_id", movement.get("member_id"));
            changed.put("transaction_id", identity);
            changed.put("result", new GenericData.EnumSymbol(CHANGED.getField("result").schema(), result));
            changed.put("points_delta", delta);
            changed.put("points_after", points);
            changed.put("sequence", sequence);
            changed.put("occurred_at_ms", movement.get("occurred_at_ms"));
            context.forward(input.withValue(changes.encode(changed)));
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        String prefix = arguments[1];
        Properties config = new Properties();
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix + ".app");
        config.put(StreamsConfig.STATE_DIR_CONFIG, arguments[2]);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[3]);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        config.put("auto.offset.reset", "earliest");
        Topology topology = new Topology();
        topology.addSource("in", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), prefix + ".in");
        topology.addProcessor("keep", KeepBalances::new, "in");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("balances"), Serdes.ByteArray(), Serdes.ByteArray()).withCachingEnabled(), "keep");
        topology.addSink("out", prefix + ".out", Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "keep");
        KafkaStreams streams = new KafkaStreams(topology, config);
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            stopped.countDown();
        }));
        streams.start();
        stopped.await();
    }
}
