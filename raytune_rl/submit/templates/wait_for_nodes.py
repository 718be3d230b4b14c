import sys, time
from ray._raylet import GcsClient

address, wanted = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 300
alive = 0
while alive < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"only {alive} of {wanted} nodes have joined Ray at {address} within 300 s")
    time.sleep(0.5)
    try:
        nodes = GcsClient(address=address).get_all_node_info()
        alive = sum(node.state == 0 for node in nodes.values())
    except Exception:
        continue
