#!/usr/bin/env bash
# Makes the partitioned topic, the position topic, the index flow's subscription and the rights of
# the role `syncline`. What is there already is left alone, the number of partitions too.
set -euo pipefail
cd /pulsar
bin/apply-config-from-env.py conf/client.conf > /dev/null # what it prints would show the token

namespace=${TOPIC#persistent://}
namespace=${namespace%/*}

has() { tr -d '"\r' | grep -xF "$1" > /dev/null; }

until bin/pulsar-admin namespaces policies "$namespace" > /dev/null; do sleep 2; done

bin/pulsar-admin topics list-partitioned-topics "$namespace" | has "$TOPIC" ||
  bin/pulsar-admin topics create-partitioned-topic "$TOPIC" --partitions "$PARTITIONS"
bin/pulsar-admin topics list "$namespace" | has "$TOPIC-position" ||
  bin/pulsar-admin topics create "$TOPIC-position"
bin/pulsar-admin topics subscriptions "$TOPIC" | has "$SUBSCRIPTION" ||
  bin/pulsar-admin topics create-subscription "$TOPIC" --subscription "$SUBSCRIPTION" --messageId earliest
bin/pulsar-admin namespaces grant-permission "$namespace" --role syncline --actions produce,consume
echo "the topic, its subscription and its rights are there"
